"""Files of others in which a row is a question with its answer: conversations and multiple choices."""
