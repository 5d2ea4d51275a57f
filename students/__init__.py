"""What trains a student."""
