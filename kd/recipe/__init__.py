"""What one run is: recipe files found by name, merged with a method, and checked against the classes that they name."""
