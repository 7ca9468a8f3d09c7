"""The reporter: joins alerts into incidents, gathers evidence, writes the report."""
