"""What all recipes share: the loop, the pictures, and the language of the zoo."""
