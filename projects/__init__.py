"""The capstones. Each is a package of the same layout; none imports another."""
