"""What happens to a Child SA: the backend interface and its implementations."""
