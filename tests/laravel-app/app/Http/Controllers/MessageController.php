<?php

namespace App\Http\Controllers;

use App\Events\MessageRead;
use App\Events\MessageSent;
use App\Events\UserOnlineStatusChanged;
use App\Events\UserTyping;
use App\Models\Message;
use App\Models\User;
use Illuminate\Http\Request;
use Illuminate\Routing\Controller;

class MessageController extends Controller
{
    public function store(Request $request)
    {
        $data = $request->validate([
            'recipient_id' => 'required|integer|exists:users,id',
            'content' => 'required|string|max:10000',
            'job_id' => 'nullable|integer|exists:job_posts,id',
        ]);
        $user = $request->user();

        $message = Message::create([
            'sender_id' => $user->id,
            'recipient_id' => (int) $data['recipient_id'],
            'content' => $data['content'],
            'job_id' => isset($data['job_id']) ? (int) $data['job_id'] : null,
            'is_read' => false,
        ]);

        broadcast(new MessageSent($message))->toOthers();

        return response()->json(['data' => $message], 201);
    }

    /** Marks what {user} sent to the caller as read. */
    public function markRead(Request $request, User $user)
    {
        $messages = Message::where('sender_id', $user->id)->where('recipient_id', $request->user()->id)
            ->where('is_read', false)->orderBy('id')->get();

        foreach ($messages as $message) {
            $message->update(['is_read' => true, 'read_at' => now()]);
            broadcast(new MessageRead($message))->toOthers();
        }

        return response()->json(['marked' => $messages->count()]);
    }

    public function typing(Request $request, User $user)
    {
        $data = $request->validate(['is_typing' => 'required|boolean']);

        broadcast(new UserTyping($request->user(), $user->id, (bool) $data['is_typing']))->toOthers();

        return response()->json(['status' => 'ok']);
    }

    public function online(Request $request)
    {
        $data = $request->validate(['is_online' => 'required|boolean']);

        broadcast(new UserOnlineStatusChanged($request->user(), (bool) $data['is_online']));

        return response()->json(['status' => 'ok']);
    }
}
