"""One page that compares Loupe with ComfyUI's own ways, on a user's image and model. See docs/report.md."""
