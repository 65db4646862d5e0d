"""How this node runs things: processes, environments of versions, model servers."""
