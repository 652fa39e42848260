"""Proactive scenarios: does a model ask for help when a picture is not enough (ProactiveBench, arXiv 2603.19466)?"""
