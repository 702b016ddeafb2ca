"""Operations that do not go the general way: those that cross between places, and those that need no command."""
