"""Files whose rows are a question with its answer: conversations and multiple choices."""
