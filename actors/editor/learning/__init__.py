"""Words that an editor learns from edited pictures: their file, their place in its vocabulary, how they are learned."""
