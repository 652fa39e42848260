"""Contrastive classification: zero-shot, Tip-Adapter, nearest neighbours, CaSED and text retrieval."""
