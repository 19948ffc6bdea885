"""What kdcore is to other trainers: a loss, recipes and wrapped networks, handed out by kdcore/__init__.py."""
