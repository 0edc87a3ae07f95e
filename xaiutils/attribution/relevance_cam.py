"""Class activation maps weighted by relevance: Relevance-CAM and XRelevance-CAM."""
