"""Scores against labels: how good is a model, and where not?"""
