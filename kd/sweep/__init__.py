"""Many runs from one file: what they are, what they need first, and how long each may train. Pure: nothing runs here."""
