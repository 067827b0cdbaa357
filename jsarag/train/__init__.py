"""The loop and what it needs: problems, the way back, budgets, guards, states that are kept."""
