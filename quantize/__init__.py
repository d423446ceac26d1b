"""Models made smaller, with what they decide kept."""
