"""From a folder of documents and a table of questions to a data set in our own layout.

``build.py`` is the path, one station a file: ``documents`` finds and reads files, ``markup`` and
``converted`` turn them into sections, ``splitting`` into passages, ``repeats`` looks for what
stands there twice; ``sheets`` and ``columns`` read the questions, ``questions`` makes rows of them,
``gold`` finds what they name, ``splits`` cuts train and dev, ``summary`` says what was done.
Tokenisers are passed in.
"""
