"""How large models, adapters and matched ranks are, told before anything is loaded."""
