"""Everything of Ray that is private or undocumented, behind functions of our own words.

Each module here has two ways. The fast one is a module whose name begins with an underscore: it imports Ray's private
names as other code imports public ones, and says at its top which attributes it needs. Where the installed Ray lacks
one of them, or ``RAY_LANCE_PLAIN_RAY=1`` is set, the public way is taken: slower, and with the same results. No other
module of this package may use a private name of Ray, which a test holds.
"""
