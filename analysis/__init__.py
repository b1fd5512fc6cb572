"""From records to verdicts: reads run folders, never trains anything and never imports what trains."""
