"""The benchmark's job under jobkit, in the form that ``jobkit worker`` runs."""
