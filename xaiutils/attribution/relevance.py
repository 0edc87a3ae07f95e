"""Layer-wise relevance propagation (LRP), and its contrastive forms CLRP and SGLRP."""
