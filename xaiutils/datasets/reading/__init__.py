"""From files to pixels and evidence, whatever their format."""
