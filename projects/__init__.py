"""The capstones. Each is a package of the same rooms; none imports another."""
