"""Downloads and archives: bytes that come from elsewhere, checked before anything uses them."""
