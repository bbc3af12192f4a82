"""One file per page: a form in, an engine or analysis call, drawing by `app.ui`."""
