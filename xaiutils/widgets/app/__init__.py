"""The panel as a page of its own: ``python -m xaiutils.widgets.app`` serves it with voila, on this machine alone.

`launch` is the command line, `server` (a process of its own) lets in who has the token of the printed address, which
runs ``explorer.ipynb`` for each page, which shows `page`. A page's kernel ends when the page is left, and soon after
where the page could not tell (a crashed browser).
"""
