"""The capstones. Each is a package with the same files; none imports another."""
