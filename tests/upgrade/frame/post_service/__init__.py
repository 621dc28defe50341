"""The post service of the upgrade tests, in the form that ``jobkit worker`` runs."""
