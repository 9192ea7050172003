"""What is rewarded: rule verifiers, user functions, and the processes that run them."""
