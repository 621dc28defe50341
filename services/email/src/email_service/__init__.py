"""Renders e-mails from templates and sends them over SMTP."""
