"""Clusters and tokens as a person reads them: tables, structure files, pages, sites, enrichment."""
