"""A metadata service without a database: metaflow-local-service, and what Metaflow asks for beyond it.

Needs the extra ``service``. Only the command ``metaflow-sandbox service`` imports it.
"""
