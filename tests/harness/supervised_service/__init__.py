"""The probe service in the form that ``jobkit worker`` runs."""
