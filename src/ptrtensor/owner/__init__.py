"""The data owner's side: who may connect, what is published, what may leave, and the record of it all."""
