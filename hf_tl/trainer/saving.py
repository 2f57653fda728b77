"""Folders and pushes of a Trainer: what hf_tl saves and publishes, in place of Trainer's own files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.utils import logging

if TYPE_CHECKING:
    from hf_tl.trainer.runs import TrainerRun

logger = logging.get_logger(__name__)


class SavingTrainer(Trainer):
    """Trainer that saves and publishes models with processor, record and card."""

    run: "TrainerRun"

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model as hf_tl does, with processor, record and card; no pickle of the arguments."""
        if self.args.should_save:
            self.run.save(Path(output_dir or str(self.args.output_dir)), state_dict)

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Keep hf_tl's card, which `save_model` wrote."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **options: Any,
    ) -> Any:
        """Publish the saved model with its card, figures and record in one commit, as `hf_tl.push` does.

        Returns:
            URL of the commit.

        Raises:
            PublishError: The model is not trained, or the Hub refused the push.
        """
        if ignored := [*options, *([] if blocking else ["blocking"])]:
            logger.warning(f"Ignoring {', '.join(ignored)}: hf_tl's card states them from the record of the run")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        return self.run.publish(self.run.job.folder, token=token, revision=revision, private=private)
