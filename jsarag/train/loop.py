"""The main path of training: one pass through the ``while`` body is one optimizer step.

    batch -> encode -> candidates -> score -> weights -> loss -> backward -> optimizer
                                                         -> (due?) rebuild, evaluate, save

What happens at a station is written where the station lives: ``problem.py`` (encode),
``em/objectives`` (candidates, score, weights, loss), ``back.py`` (backward, in chunks),
``optimizer.py``, ``training_run.py`` (what is due). Each is timed under its name, so the log says
where a step's time goes. The generator's own stages run through here too.
"""

from __future__ import annotations

from jsarag import randomness
from jsarag.train.guards import require_finite
from jsarag.train.training_run import TrainingRun


def train(run: TrainingRun) -> None:
    """Run the present stage until its last step (or ``max_seconds``, a guard, a signal).

    Raises:
        NumericalError: NaN or infinity; the last good state is saved.
        GuardError: retrieval collapsed, or no evidence under ``guards.strict``.
    """
    clock, objective, optimizer = run.clock, run.stage.objective, run.optimizer
    while run.goes_on():
        randomness.seed_torch(run.seed, run.stage.kind, run.step)  # for dropout inside LoRA
        optimizer.zero_grad()
        held = []
        for micro_batch in range(run.accumulation):
            with clock("batch"):
                batch = run.batch(micro_batch)
            with clock("encode"):
                problem = run.problem(batch)
            with clock("candidates"):  # one pass over the index: search, and draws from q
                candidates = objective.candidates(problem)
            with clock("score"):  # log p(h|x), log q(h|x,y), log p(y|x,h), once per pair
                scores = objective.score(problem, candidates)
            with clock("weights"):  # the E-step: the chain, or another estimator of p(h|x,y)
                weights = objective.weights(problem, candidates, scores)
            with clock("loss"):  # the M-step: a function of scores alone
                loss = objective.loss(problem, candidates, scores, weights)
            with clock("backward"):  # to the scores, then from them through the models
                run.backward(loss.total)
            held.append((problem, candidates, weights))
            run.observe(candidates, scores, weights, loss)
        with clock("optimizer"):
            norms = optimizer.clip()
            require_finite(loss.total, norms, run.step + 1)
            optimizer.step(run.learning_rate_factor())
            for item in held:
                objective.commit(*item)  # chains move only once the step has been made
        run.step_done(norms)
        with clock("rebuild"):
            run.rebuild_if_due()
        with clock("eval"):
            run.evaluate_if_due()
        with clock("save"):
            run.save_if_due()
