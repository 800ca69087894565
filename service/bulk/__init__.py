"""Files of rows, predicted block by block: forms and their readers, and the writers of answers."""
