"""A trained model as an HTTP service, with a page for people: `vitdet serve`."""

from vitdet.errors import extra

with extra("serve", "vitdet serve"):
    from vitdet.serve.limits import Limits
    from vitdet.serve.server import serve

__all__ = ["Limits", "serve"]
