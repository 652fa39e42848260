"""Pictures composed of cut-outs on photographs, with the shares of classes and backgrounds that a spec asks for.

Ours, after the idea of Waterbirds, which pastes cut-out birds on photographs of places: a set small and free enough to be
made anywhere, in which the confounding of class and background is known because it was chosen.
"""
