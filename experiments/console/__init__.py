"""What people see in the terminal while a sweep runs and at its end."""
