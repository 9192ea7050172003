"""What people look at: a run's folder as a page, as a comparison, as samples. No torch, no Ray."""
