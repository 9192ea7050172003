"""What people say of responses: the pairs they compare, the page, the journal of their judgements."""
