"""Parts of the scenarios `sst2` and `trec6`: published sets, with a teacher of BERT's size."""
