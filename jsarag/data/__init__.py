"""Rows and passages: read, checked, converted, built from documents, and put into batches."""
