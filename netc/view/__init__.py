"""What the optimizer did to a net, for people to look at: stages of the pipeline, a page, a still picture."""
