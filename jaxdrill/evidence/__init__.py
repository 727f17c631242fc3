"""Evidence: statistics over seeds, tables, plots, and the report's page and templates. It reads run folders only."""
