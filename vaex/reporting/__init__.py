"""From run folders to tables: which runs belong together, mean and spread over their seeds, text in four formats."""
