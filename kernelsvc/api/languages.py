"""/api/languages: which languages sessions can have."""

import asyncio

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import operation
from kernelsvc.models.language import LanguageList


class LanguagesHandler(ApiHandler):
    """/api/languages"""

    @operation(LanguageList)
    async def get(self) -> None:
        """List the languages that there are, with what each can do.

        One that is not `available` says in `install` what is missing.
        """
        infos = await asyncio.to_thread(self.context.service.languages.infos)
        self.answer(LanguageList(languages=infos, count=len(infos)))
