"""What serving many adapters costs: the gateway against bare vLLM, adapters against the base, routing against luck."""
