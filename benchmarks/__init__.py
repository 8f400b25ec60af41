"""Side-by-side measurements against public libraries. Nothing in `common` or `projects` imports them."""
